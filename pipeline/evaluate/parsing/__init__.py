"""Parse answers: from the text that a model wrote to a number or a label, by the rules of a parser."""
