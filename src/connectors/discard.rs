//! A sink that counts rows and drops them.
