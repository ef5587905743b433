//! SKELETON (helper `control` owns).
