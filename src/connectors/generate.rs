//! A source that makes rows up from expressions over the row number.
