//! Any bytes as a large WatchResponse that is cut while it arrives.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watchmark::upstream::any_bytes::cut_message(bytes));
