"""Cards of models behind an endpoint: an address that speaks the API of OpenAI."""
