//! Any bytes as etcd's RangeResponse.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watchmark::upstream::any_bytes::range_response(bytes));
