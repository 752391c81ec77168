"""HTTP/2 on asyncio over the sans-I/O engine `ngh2`, which nothing outside this package imports."""
