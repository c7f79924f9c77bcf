//! Connections that are limited in number and in time: the port is open to every pod, and `/livez` must answer whatever the
//! others do.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// What limits the connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most that are open. One more ends the oldest, and is served: a new one may be the kubelet's.
    pub(super) connections: usize,
    /// For how long each is open at most.
    pub(super) life: Duration,
}

/// A listener of limited connections.
pub(super) struct LimitedListener {
    listener: TcpListener,
    limits: Limits,
    /// The open ones, oldest first.
    open: VecDeque<Weak<CancellationToken>>,
}

impl LimitedListener {
    pub(super) const fn new(listener: TcpListener, limits: Limits) -> Self {
        Self { listener, limits, open: VecDeque::new() }
    }
}

impl Listener for LimitedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        self.open.retain(|connection| connection.strong_count() > 0);
        if self.open.len() >= self.limits.connections
            && let Some(oldest) = self.open.pop_front().and_then(|oldest| oldest.upgrade())
        {
            oldest.cancel();
        }
        let open = Arc::new(CancellationToken::new());
        self.open.push_back(Arc::downgrade(&open));
        (Connection::new(stream, open, self.limits.life), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself.
pub(super) struct Connection {
    stream: TcpStream,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    _open: Arc<CancellationToken>,
}

impl Connection {
    fn new(stream: TcpStream, open: Arc<CancellationToken>, life: Duration) -> Self {
        let evicted = CancellationToken::clone(&open).cancelled_owned();
        let end = Box::pin(async move {
            tokio::select! {
                () = sleep(life) => {}
                () = evicted => {}
            }
        });
        Self { stream, end, ended: false, _open: open }
    }

    /// The stream, until the connection has ended.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        self.ended = self.ended || self.end.as_mut().poll(cx).is_ready();
        if self.ended { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Pin::new(&mut self.stream)) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        all: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write_vectored(cx, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
