"""`intvit search`: families and bit widths for every layer under a budget. search.py tells the steps in order."""
