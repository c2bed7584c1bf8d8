//! Nothing that a function writes into a head makes the host panic, or leads to a message that
//! somebody else would read as another one.

use proptest::prelude::*;
use weir_tests::heads::abuse;

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_head_that_a_function_writes_smuggles_anything(script in prop::collection::vec(any::<u8>(), 0..120)) {
        abuse(&script);
    }
}
