"""An HTTP server for one model: requests as OpenAI's API has them, generated in batches."""
