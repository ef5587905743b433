#![no_main]

ginnel_fuzz::target!("record");
