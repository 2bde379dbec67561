//! Any bytes as the rows of a store's tree.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watchmark::store::any_bytes::rows(bytes));
