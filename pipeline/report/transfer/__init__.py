"""Transfer: adapters trained on one set and evaluated on the tasks of another."""
