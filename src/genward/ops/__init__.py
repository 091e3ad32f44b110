"""Pure tensor functions shared by methods, each with a reference test, and the file format of what methods learn."""
