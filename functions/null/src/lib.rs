//! Leaves every packet to the next function. It measures what a call and nothing else costs, and is
//! the shortest function there can be.

use weir_sdk::prelude::*;

/// The function; it has neither configuration nor state.
#[derive(Debug)]
pub struct Null;

impl Function for Null {
    type Config = NoConfig;

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst) {}
}

export!(Null);

#[cfg(test)]
mod tests {
    use weir_sdk::testing::Harness;

    use super::*;

    #[test]
    fn packets_pass_unchanged() {
        let mut harness = Harness::<Null>::new("{}").unwrap();
        let outcome = harness.run(b"any bytes");
        assert_eq!(outcome.verdict, Verdict::Next);
        assert_eq!(outcome.bytes, b"any bytes");
    }

    #[test]
    fn it_has_no_configuration() {
        let error = Harness::<Null>::new(r#"{"fast": true}"#).unwrap_err();
        assert!(error.contains("`fast`"), "{error}");
    }
}
