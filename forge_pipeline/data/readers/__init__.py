"""One module for each kind of data file: it turns a file into rows, holding one row or batch at a time."""
