//! The `sk_skb` program: what comes in at a joined socket goes out at the other one, and is
//! counted, so that the host knows when all of it has gone.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{map, stream_verdict};
use aya_ebpf::maps::{HashMap, SockHash};
use aya_ebpf::programs::SkBuffContext;
use weir_hop_layout::JOINED_MAX;

#[map]
static JOINED: SockHash<u64> = SockHash::with_max_entries(JOINED_MAX, 0);
#[map]
static OTHERS: SockHash<u64> = SockHash::with_max_entries(JOINED_MAX, 0);
#[map]
static JOINED_BYTES: HashMap<u64, u64> = HashMap::with_max_entries(JOINED_MAX, 0);

#[stream_verdict]
pub fn weir_join(context: SkBuffContext) -> u32 {
    // The end of a stream alone: passed on, it would be an error of the other socket.
    if context.len() == 0 {
        return SK_DROP;
    }
    // SAFETY: the helper takes the context as it is.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let Some(bytes) = JOINED_BYTES.get_ptr_mut(cookie) else { return SK_DROP };
    // SAFETY: the entry is there until the host removes it, which it does after the socket has left
    // the map of sockets; a socket's bytes come one after the other.
    unsafe { *bytes += u64::from(context.len()) };
    if OTHERS.redirect_skb(&context, cookie, 0) != i64::from(SK_PASS) {
        return SK_DROP;
    }
    SK_PASS
}
