//! Every way in which a file can be wrong, with the whole message that its author gets; and the
//! examples of the documentation, which must be right.

mod chains;
mod hosts;
mod mistakes;
mod nics;
mod steering;

use weir_spec::{
    Access, Chain, Check, Document, HostConfig, Keyed, Manifest, Name, OnFault, Period, Plane,
    PortKind, Quota, Size, State, SteerTo, Steering, World, XdpMode, XdpPin,
};

#[track_caller]
fn refused<T>(text: &str, expected: &str)
where
    T: serde::de::DeserializeOwned + Check + std::fmt::Debug,
{
    let error = Document::<T>::parse("file.toml", text).expect_err("accepted").to_string();
    assert_eq!(error.trim(), expected.trim(), "\n--- got:\n{error}\n");
}
