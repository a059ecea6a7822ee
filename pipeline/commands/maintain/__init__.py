"""Commands that maintain results, code records and generated pages."""
