"""Benchmarks that users run on their own nodes: `acceerl bench NAME`. `catalogue` lists them; one file a bench."""
