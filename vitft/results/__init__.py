"""Results: what their files hold, the folders they lie in, and files that appear whole or not at all. No torch."""
