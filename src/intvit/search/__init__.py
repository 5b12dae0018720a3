"""`intvit search`: families and bit widths for every layer under a budget. command.py tells the stages in order."""
