"""What keeps processes alive, watched and measured. Left of the house: no learning here."""
