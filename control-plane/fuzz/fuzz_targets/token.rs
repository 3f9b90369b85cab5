#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_control::fuzz::token(bytes));
