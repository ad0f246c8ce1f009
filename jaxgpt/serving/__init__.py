"""An HTTP server for one model: requests as in OpenAI's API, generated in batches."""
