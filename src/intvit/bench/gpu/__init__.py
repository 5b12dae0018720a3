"""What is to be seen on the first GPU: every kernel, derivation, model and runtime equal, a step's time and memory."""
