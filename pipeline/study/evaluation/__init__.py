"""How the models of a study are evaluated."""
