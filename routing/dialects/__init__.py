"""What callers and backends of different forms say to each other."""
