"""Tests: whole HTTP through the real server first; real PostgreSQL and Valkey; the simulator as provider."""
