"""Where other libraries take a backend: one module each, which alone imports that library."""
