#![no_main]

ginnel_fuzz::target!("datagram");
