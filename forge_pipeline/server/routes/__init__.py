"""One module per section of the REST contract. A route takes its body apart and calls one function."""
