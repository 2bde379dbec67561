//! Any bytes as etcd's WatchResponse.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watchmark::upstream::any_bytes::watch_response(bytes));
