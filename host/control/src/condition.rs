//! Whether something is still what whoever changes it believes it to be: `If-Match` and
//! `If-None-Match` of HTTP.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::error::ControlError;
use crate::store::hex;

/// What has to be there for a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// One of these tags, in quotes, or `*`: anything.
    pub matches: Option<Vec<String>>,
    /// Nothing.
    pub is_new: bool,
}

impl Condition {
    /// # Errors
    /// When something else is there.
    pub(crate) fn check(
        &self,
        what: &str,
        there: Option<&impl Serialize>,
    ) -> Result<(), ControlError> {
        let now = match (&self.matches, there) {
            (_, Some(_)) if self.is_new => "it is there already".to_owned(),
            (Some(_), None) => "it is not there".to_owned(),
            (Some(tags), Some(there)) => {
                let there = format!("\"{}\"", tag(there));
                if tags.iter().any(|tag| tag == "*" || *tag == there) {
                    return Ok(());
                }
                format!("its tag is {there}")
            }
            (None, _) => return Ok(()),
        };
        Err(ControlError::Precondition(format!(
            "{what} is not as the request expects: {now}; get it again, and change that"
        )))
    }
}

/// Names what a record says.
pub(crate) fn tag(record: &impl Serialize) -> String {
    let text = serde_json::to_vec(record).expect("records have text keys and plain values");
    hex(&Sha256::digest(text)[..16])
}
