//! Which of the gateway's words a function's numbers mean (`wit/message.md`).

use weir_exchange::{CallFault, Ended, Interests};
use weir_layout::message::Wants;

/// Events that a function wants.
pub(crate) fn interests(wants: Wants) -> Interests {
    Interests {
        request_head: wants.has(Wants::REQUEST_HEAD),
        request_body: wants.has(Wants::REQUEST_BODY),
        response_head: wants.has(Wants::RESPONSE_HEAD),
        response_body: wants.has(Wants::RESPONSE_BODY),
        opened: wants.has(Wants::OPENED),
        data: wants.has(Wants::DATA),
    }
}

/// Events that one of two wants.
pub(crate) fn either(one: Interests, other: Interests) -> Interests {
    Interests {
        request_head: one.request_head | other.request_head,
        request_body: one.request_body | other.request_body,
        response_head: one.response_head | other.response_head,
        response_body: one.response_body | other.response_body,
        opened: one.opened | other.opened,
        data: one.data | other.data,
    }
}

/// How an exchange ended, as `ended` tells it.
pub(crate) fn ended(how: Ended) -> u32 {
    match how {
        Ended::Delivered => 0,
        Ended::ClientGone => 1,
        Ended::UpstreamFailed => 2,
        Ended::Answered => 3,
        Ended::Reset => 4,
    }
}

/// Why a call has no answer, as `resume` tells it.
pub(crate) fn call_fault(fault: CallFault) -> u32 {
    match fault {
        CallFault::Timeout => 2,
        CallFault::Unreachable => 3,
        CallFault::NotHttp => 4,
        CallFault::TooLong => 5,
    }
}
