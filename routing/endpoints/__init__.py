"""One small file per endpoint of OpenAI's form: what the gateway must know of a request and its answer, and nothing
more. Bodies are kept as their raw fields, so whatever the caller or the backend adds passes through untouched."""
