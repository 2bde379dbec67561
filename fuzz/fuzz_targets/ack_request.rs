//! Any bytes as an AckRequest.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watchmark::grpc::any_bytes::ack_request(bytes));
