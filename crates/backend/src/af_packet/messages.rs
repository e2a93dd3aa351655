//! Batches of messages for `recvmmsg` and `sendmmsg`: one virtio-net header, one frame, and on receive the
//! auxiliary data each.
//!
//! The kernel's structures are full of pointers. They are written anew for every call from borrows that live
//! across it, and never read afterwards as pointers; the arrays are kept only so that no call allocates.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use lamina_core::packet::Packet;

use crate::vnet::VNET_HEADER_LEN;

/// Room for the control messages of one frame: `PACKET_AUXDATA` is all that is asked for. Aligned for `cmsghdr`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
struct Control([u8; CONTROL_LEN]);

const CONTROL_LEN: usize = 64;

/// Arrays for up to `capacity` messages.
pub(super) struct Messages {
    messages: Box<[libc::mmsghdr]>,
    vectors: Box<[[libc::iovec; 2]]>,
    headers: Box<[[u8; VNET_HEADER_LEN]]>,
    controls: Box<[Control]>,
}

// SAFETY: the raw pointers inside are dead between calls (each call writes them before the kernel reads them), so
// moving the value to another thread moves plain memory only.
unsafe impl Send for Messages {}

/// What arrived in one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arrival {
    /// The virtio-net header; `None` when the message is shorter than it.
    pub(super) header: Option<[u8; VNET_HEADER_LEN]>,
    /// Length of the frame.
    pub(super) length: usize,
    /// The frame did not fit the buffer.
    pub(super) truncated: bool,
    /// A VLAN tag that the kernel took out: its protocol and its control information.
    pub(super) tag: Option<(u16, u16)>,
}

impl Messages {
    pub(super) fn new(capacity: usize) -> Self {
        // SAFETY: mmsghdr is plain data for which all zeroes (null pointers, zero lengths) is a valid value.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Messages {
            messages: vec![message; capacity].into(),
            vectors: vec![[vector; 2]; capacity].into(),
            headers: vec![[0; VNET_HEADER_LEN]; capacity].into(),
            controls: vec![Control([0; CONTROL_LEN]); capacity].into(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.messages.len()
    }

    /// Receives into the empty `packets`, without waiting; returns how many were filled. Their lengths are not yet
    /// set: see [`Messages::arrival`].
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, packets: &mut [Packet]) -> io::Result<usize> {
        let count = packets.len().min(self.capacity());
        for (i, packet) in packets.iter_mut().take(count).enumerate() {
            let area = packet.reset();
            self.vectors[i] = [
                libc::iovec { iov_base: self.headers[i].as_mut_ptr().cast(), iov_len: VNET_HEADER_LEN },
                libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() },
            ];
            let message = &mut self.messages[i];
            message.msg_hdr.msg_iov = self.vectors[i].as_mut_ptr();
            message.msg_hdr.msg_iovlen = 2;
            message.msg_hdr.msg_control = self.controls[i].0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL_LEN as _;
            message.msg_hdr.msg_flags = 0;
            message.msg_len = 0;
        }
        // SAFETY: the first `count` messages point into `self.vectors`, `self.headers`, `self.controls` and the
        // packets' buffers with their exact lengths; all are exclusively borrowed until the call returns. A null
        // timeout is allowed. Safe code will not do: std and rustix have no recvmmsg.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// What the last [`Messages::receive`] put into message `i`.
    pub(super) fn arrival(&self, i: usize) -> Arrival {
        let message = &self.messages[i];
        let total = message.msg_len as usize;
        let control_length = message.msg_hdr.msg_controllen.min(CONTROL_LEN);
        Arrival {
            header: (total >= VNET_HEADER_LEN).then_some(self.headers[i]),
            length: total.saturating_sub(VNET_HEADER_LEN),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            tag: stripped_tag(&self.controls[i].0[..control_length]),
        }
    }

    /// Sends `packets`, each with its header, without waiting; returns how many of the first ones were taken, or
    /// why the first was not.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        packets: &[Packet],
        headers: &[[u8; VNET_HEADER_LEN]],
    ) -> io::Result<usize> {
        let count = packets.len().min(headers.len()).min(self.capacity());
        for (i, (packet, header)) in packets.iter().zip(headers).take(count).enumerate() {
            self.headers[i] = *header;
            // The kernel only reads what a sent vector points to, so casting away const is harmless.
            let frame = packet.frame();
            self.vectors[i] = [
                libc::iovec { iov_base: self.headers[i].as_mut_ptr().cast(), iov_len: VNET_HEADER_LEN },
                libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() },
            ];
            let message = &mut self.messages[i];
            message.msg_hdr.msg_iov = self.vectors[i].as_mut_ptr();
            message.msg_hdr.msg_iovlen = 2;
            message.msg_hdr.msg_control = std::ptr::null_mut();
            message.msg_hdr.msg_controllen = 0;
            message.msg_hdr.msg_flags = 0;
        }
        // SAFETY: the first `count` messages point into `self.vectors`, `self.headers` and the packets' frames with
        // their exact lengths; all stay borrowed until the call returns, and the kernel does not write to them.
        // Safe code will not do: std and rustix have no sendmmsg.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// The VLAN tag in the control messages `control`, if the kernel took one out of the frame. Kernels that do not
/// tell its protocol mean 802.1Q.
fn stripped_tag(mut control: &[u8]) -> Option<(u16, u16)> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    // Offsets inside tpacket_auxdata: status 0, lengths 4 and 8, offsets 12 and 14, tag 16, tag protocol 18.
    const AUXDATA: usize = 20;
    let native = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    while control.len() >= HEADER {
        let length = usize::from_ne_bytes(control[..size_of::<usize>()].try_into().ok()?);
        let level = native(&control[HEADER - 8..]) as i32;
        let kind = native(&control[HEADER - 4..]) as i32;
        if length < HEADER || length > control.len() {
            return None;
        }
        let data = &control[HEADER..length];
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA && data.len() >= AUXDATA {
            let status = native(data);
            if status & libc::TP_STATUS_VLAN_VALID == 0 {
                return None;
            }
            let half = |at: usize| u16::from_ne_bytes([data[at], data[at + 1]]);
            let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            return Some((if known { half(18) } else { 0x8100 }, half(16)));
        }
        control = control.get(length.next_multiple_of(size_of::<usize>())..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auxdata(status: u32, tci: u16, tpid: u16) -> Vec<u8> {
        let mut bytes = (16usize + 20).to_ne_bytes().to_vec();
        bytes.extend(libc::SOL_PACKET.to_ne_bytes());
        bytes.extend(libc::PACKET_AUXDATA.to_ne_bytes());
        bytes.extend(status.to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(tci.to_ne_bytes());
        bytes.extend(tpid.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_stripped_tag_is_read_and_garbage_is_not() {
        let both = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        assert_eq!(stripped_tag(&auxdata(both, 0x6007, 0x88a8)), Some((0x88a8, 0x6007)));
        assert_eq!(stripped_tag(&auxdata(libc::TP_STATUS_VLAN_VALID, 5, 0)), Some((0x8100, 5)));
        assert_eq!(stripped_tag(&auxdata(0, 5, 0x8100)), None);
        let other = {
            let mut bytes = 20usize.to_ne_bytes().to_vec();
            bytes.extend([1, 0, 0, 0, 2, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0]);
            bytes
        };
        assert_eq!(stripped_tag(&[other, auxdata(both, 1, 0x8100)].concat()), Some((0x8100, 1)));
        let whole = auxdata(both, 1, 0x8100);
        for cut in 0..36 {
            assert_eq!(stripped_tag(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(stripped_tag(&[0xff; 64]), None);
        assert_eq!(stripped_tag(&[0; 64]), None);
    }
}
