//! TCP sockets of a thread.
//!
//! A receive is never dropped half-way, with what it may have received: to end one, `shutdown` the socket, or
//! `interrupt` it, and wait for it.
#![allow(unsafe_code)]

use crate::buffer::SharedBytes;
use crate::op::{Op, result_of};
use crate::receive_buffer::ReceiveBuffer;
use crate::sockaddr::write_sockaddr;
use crate::submit::{cancel, submit};
use crate::thread_core::with_twin;
use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

/// A connected TCP socket. Dropping it ends what is in flight on it and closes it.
pub struct Socket {
    fd: RawFd,
    is_simulated: bool,
    /// The operation that receives.
    receiving: Cell<Option<u32>>,
    receives: Cell<u64>,
    /// Sends that have begun, and whether the last of them goes on.
    sends: Cell<u64>,
    is_sending: Cell<bool>,
}

/// A listening TCP socket; several may share an address (`SO_REUSEPORT`).
pub struct Listener {
    fd: RawFd,
    is_simulated: bool,
}

/// The number of an operation is another one's once it is over, also for a receive that is dropped.
struct Receiving<'a>(&'a Cell<Option<u32>>);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// Whether a `receive` ended because of `interrupt`.
#[must_use]
pub fn was_interrupted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

impl Listener {
    /// Listens on `address`; port 0 picks a free one (see `local_address`). With `share`, other
    /// sockets of this user may listen there too, and the kernel spreads connections over them.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub fn bind(address: SocketAddr, share: bool) -> io::Result<Self> {
        if let Some(bound) = with_twin(|twin| twin.bind(address, share)) {
            return bound.map(|fd| Self { fd, is_simulated: true });
        }
        let listener = Self { fd: new_socket(address)?, is_simulated: false };
        set_option(listener.fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if share {
            set_option(listener.fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        // SAFETY: plain C structure; all zeroes is valid.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let bytes = write_sockaddr(address, &mut storage);
        // SAFETY: `storage` holds an address of `bytes` bytes; the descriptor is ours.
        unsafe {
            check(libc::bind(listener.fd, (&raw const storage).cast(), bytes))?;
            check(libc::listen(listener.fd, 1024))?;
        }
        Ok(listener)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        if self.is_simulated {
            return with_twin(|twin| twin.local_address(self.fd)).expect("a simulated listener");
        }
        // SAFETY: plain C structure; all zeroes is valid.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut bytes = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: both places are valid and the size is given.
        unsafe {
            check(libc::getsockname(self.fd, (&raw mut storage).cast(), &raw mut bytes))?;
        }
        read_sockaddr(&storage)
    }

    /// The next connection.
    ///
    /// # Errors
    /// As accept(2); `InvalidInput` after `shutdown`.
    pub async fn accept(&self) -> io::Result<Socket> {
        let (result, _) = submit(Op::Accept { fd: self.fd }).await;
        let socket = Socket::new(result_of(result)? as RawFd, self.is_simulated);
        if !self.is_simulated {
            set_option(socket.fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
            notice_death(socket.fd)?;
        }
        Ok(socket)
    }

    /// Ends a pending `accept`.
    pub fn shutdown(&self) {
        if self.is_simulated {
            with_twin(|twin| twin.shutdown(self.fd));
            return;
        }
        // SAFETY: the descriptor is open.
        unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.is_simulated {
            with_twin(|twin| twin.close_socket(self.fd));
            return;
        }
        self.shutdown();
        // SAFETY: ours alone.
        unsafe { libc::close(self.fd) };
    }
}

impl Socket {
    fn new(fd: RawFd, is_simulated: bool) -> Self {
        Self {
            fd,
            is_simulated,
            receiving: Cell::new(None),
            receives: Cell::new(0),
            sends: Cell::new(0),
            is_sending: Cell::new(false),
        }
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// As connect(2).
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = match with_twin(|twin| twin.socket(address)) {
            Some(fd) => Self::new(fd?, true),
            None => Self::new(new_socket(address)?, false),
        };
        if !socket.is_simulated {
            set_option(socket.fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        }
        let (result, _) = submit(Op::Connect { fd: socket.fd, address }).await;
        result_of(result)?;
        Ok(socket)
    }

    /// Receives once into the buffer, which must have room; 0 means the peer closed. `frame_bytes`
    /// is the size of the frame at the buffer's front if known, else 0.
    ///
    /// # Errors
    /// As recv(2); `was_interrupted` tells if it is because of `interrupt`.
    pub async fn receive(
        &self,
        buffer: &mut ReceiveBuffer,
        frame_bytes: usize,
    ) -> io::Result<usize> {
        let len_max = buffer.receive_max(frame_bytes);
        let receive = submit(Op::Receive { fd: self.fd, into: buffer.lend(), len_max });
        self.receiving.set(receive.index());
        let receiving = Receiving(&self.receiving);
        let (result, op) = receive.await;
        drop(receiving);
        self.receives.set(self.receives.get() + 1);
        let Op::Receive { into, .. } = op else { unreachable!("the op comes back") };
        let received = result_of(result);
        buffer.give_back(into, *received.as_ref().unwrap_or(&0));
        received
    }

    /// How many receives have ended.
    #[must_use]
    pub fn receives(&self) -> u64 {
        self.receives.get()
    }

    /// The number of the send that the kernel has not taken yet, if there is one: the same one for long is a peer that
    /// does not read.
    #[must_use]
    pub fn send_under_way(&self) -> Option<u64> {
        self.is_sending.get().then(|| self.sends.get())
    }

    /// Whether the other end has closed or is gone, also behind bytes that are still to be received.
    #[must_use]
    pub fn has_hung_up(&self) -> bool {
        if self.is_simulated {
            return with_twin(|twin| twin.has_hung_up(self.fd)).expect("a simulated socket");
        }
        let mut asked = libc::pollfd { fd: self.fd, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one valid entry; the call does not wait.
        let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
        found > 0 && asked.revents != 0
    }

    /// Bytes sent that the other end has not acknowledged: as it reads they change.
    #[must_use]
    pub fn unacknowledged_bytes(&self) -> i32 {
        if self.is_simulated {
            return with_twin(|twin| twin.unacknowledged_bytes(self.fd))
                .expect("a simulated socket");
        }
        let mut bytes: libc::c_int = 0;
        // SAFETY: a valid place for the number that this request answers with (SIOCOUTQ).
        let told = unsafe { libc::ioctl(self.fd, libc::TIOCOUTQ, &raw mut bytes) };
        if told < 0 { 0 } else { bytes }
    }

    /// Has a `receive` that waits for bytes end without any, as `was_interrupted` tells; one to which they have
    /// come ends with them.
    pub fn interrupt(&self) {
        self.receiving.get().into_iter().for_each(cancel);
    }

    /// Waits until there is something to receive, the end included, without memory to receive it in.
    pub async fn until_readable(&self) {
        submit(Op::Readable { fd: self.fd }).await;
    }

    /// Sends all `pieces` in order; the vector comes back empty for reuse.
    ///
    /// # Errors
    /// As sendmsg(2); how much was sent before the error is unknown.
    pub async fn send(&self, pieces: &mut Vec<SharedBytes>) -> io::Result<()> {
        pieces.retain(|piece| !piece.is_empty());
        while !pieces.is_empty() {
            // The kernel takes at most UIO_MAXIOV pieces at once.
            let later = if pieces.len() > 1024 { pieces.split_off(1024) } else { Vec::new() };
            let taken = std::mem::take(pieces);
            self.sends.set(self.sends.get() + 1);
            self.is_sending.set(true);
            let (result, op) = submit(Op::Send { fd: self.fd, pieces: taken }).await;
            self.is_sending.set(false);
            let Op::Send { pieces: returned, .. } = op else { unreachable!("the op comes back") };
            *pieces = returned;
            let mut sent = match result_of(result) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                other => other,
            }
            .inspect_err(|_| pieces.clear())?;
            pieces.retain_mut(|piece| {
                let skipped = sent.min(piece.len());
                sent -= skipped;
                if skipped > 0 && skipped < piece.len() {
                    *piece = piece.slice(skipped..piece.len());
                    return true;
                }
                skipped == 0
            });
            pieces.extend(later);
        }
        Ok(())
    }

    /// Ends both directions: a pending receive returns 0, a pending send fails.
    pub fn shutdown(&self) {
        if self.is_simulated {
            with_twin(|twin| twin.shutdown(self.fd));
            return;
        }
        // SAFETY: the descriptor is open.
        unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
    }

    /// The other end's address, for logs.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        if self.is_simulated {
            return with_twin(|twin| twin.peer_address(self.fd)).flatten();
        }
        // SAFETY: plain C structure; all zeroes is valid.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut bytes = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: both places are valid and the size is given.
        let result =
            unsafe { libc::getpeername(self.fd, (&raw mut storage).cast(), &raw mut bytes) };
        if result < 0 { None } else { read_sockaddr(&storage).ok() }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_simulated {
            with_twin(|twin| twin.close_socket(self.fd));
            return;
        }
        self.shutdown();
        // SAFETY: ours alone; operations in flight hold their own reference in the kernel.
        unsafe { libc::close(self.fd) };
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_socket(address: SocketAddr) -> io::Result<RawFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call.
    check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

fn set_option(fd: RawFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option value is an int whose address and size are given.
    check(unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of_val(&value) as u32)
    })
    .map(drop)
}

/// Has the kernel end a silent connection whose peer is gone without a word, after two minutes. (With a time limit for
/// what is on its way, a peer that lives and does not read for so long would be ended, too.)
fn notice_death(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    for (name, seconds) in
        [(libc::TCP_KEEPIDLE, 60), (libc::TCP_KEEPINTVL, 15), (libc::TCP_KEEPCNT, 4)]
    {
        set_option(fd, libc::IPPROTO_TCP, name, seconds)?;
    }
    Ok(())
}

fn read_sockaddr(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the kernel wrote.
            let v4 = unsafe { std::ptr::from_ref(storage).cast::<libc::sockaddr_in>().read() };
            let ip = u32::from_be(v4.sin_addr.s_addr).into();
            Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>().read() };
            let ip = v6.sin6_addr.s6_addr.into();
            Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}
