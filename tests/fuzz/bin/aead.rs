#![no_main]

ginnel_fuzz::target!("aead");
