"""From a calibrated model to a program, and from a program to what is handed over."""
