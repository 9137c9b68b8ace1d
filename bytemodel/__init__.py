"""bytemodel: a hierarchical transformer that reads and writes raw bytes."""
