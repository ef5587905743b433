//! SKELETON (helper `path` owns).
