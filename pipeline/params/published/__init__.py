"""Cards of what publications report: their tables and figures, and the commands of their code."""
