"""One page of results that needs nothing but itself: no request, no script of others, every name escaped."""
