//! SKELETON (helper `forward` owns).
