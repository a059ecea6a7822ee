"""Answers of models behind an endpoint: requests, stored responses, limits and cost."""
