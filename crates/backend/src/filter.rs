//! A socket that keeps nothing: the kernel asks it about every packet, and it wants none.
//!
//! Such a socket makes the kernel believe that somebody listens, at the lowest cost: nothing is queued, nobody is woken. A
//! full receive buffer would not do, since a raw socket that is full counts as none at all and the kernel answers the
//! packet with an error.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has `socket` refuse every packet from now on. Needs no privilege.
pub fn keep_nothing(socket: BorrowedFd<'_>) -> io::Result<()> {
    // One instruction: "return, and keep 0 bytes".
    let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads one sock_fprog, whose exact size is given, and through it the instructions that `program`
    // holds, as many as `len` says; both live until the call returns, and it keeps a copy. Safe code will not do: neither
    // std nor rustix has this option.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn a_socket_that_keeps_nothing_is_there_and_receives_nothing() {
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(deaf.local_addr().unwrap()).unwrap();
        deaf.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut buffer = [0; 16];
        sender.send(b"before").unwrap();
        assert_eq!(deaf.recv(&mut buffer).unwrap(), 6);
        keep_nothing(deaf.as_fd()).unwrap();
        for _ in 0..1_000 {
            // Nobody listening would be told here: "connection refused".
            sender.send(&[7; 1_000]).unwrap();
        }
        assert!(deaf.recv(&mut buffer).is_err());
    }
}
