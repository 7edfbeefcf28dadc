//! libFuzzer over one target of `ev-fuzz`, which `EV_FUZZ_TARGET` names.

#![no_main]

use std::sync::OnceLock;

use ev_fuzz::Target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (named().run)(bytes));

fn named() -> &'static Target {
    static NAMED: OnceLock<&'static Target> = OnceLock::new();
    NAMED.get_or_init(|| {
        let name = std::env::var("EV_FUZZ_TARGET").unwrap_or_default();
        ev_fuzz::target(&name).unwrap_or_else(|| panic!("EV_FUZZ_TARGET={name:?} is no target"))
    })
}
