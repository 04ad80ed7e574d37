"""`acceerl data`: demonstrations from elsewhere, checked, counted, cut, joined; a file a verb, over pieces.py."""
