/*
 * What tests and benches do with a network from inside a container, and from a host: static, so that it runs anywhere.
 *
 *   probe echo PORT                        answers each datagram with itself, IPv4 and IPv6
 *   probe ask ADDRESS PORT WORD            sends WORD as a datagram and prints the answer; 1 if none comes within 2 s
 *   probe send IFACE COUNT HEX...          puts raw frames on the wire, each COUNT times
 *   probe flood IFACE SECONDS HEX...       does so as fast as it can and prints how many it was
 *   probe capture IFACE SECONDS            says `ready`, then every frame that comes in, as hex, promiscuous
 *   probe get ADDRESS PATH                 prints what a web server answers; 2 if it cannot be reached within 3 s
 *   probe sink PORT                        takes connections for ever: reads to the end, answers with the number of bytes
 *   probe push ADDRESS PORT BYTES          sends that much and prints the seconds until all was read
 *   probe connect ADDRESS PORT COUNT       connects that often and prints the microseconds of each
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 65536
static unsigned char buffer[MOST];

static _Noreturn void failed(const char *what)
{
	perror(what);
	exit(2);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static socklen_t address_of(const char *text, const char *port, struct sockaddr_storage *out)
{
	struct sockaddr_in *four = (void *)out;
	struct sockaddr_in6 *six = (void *)out;
	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(atoi(port));
		return sizeof *four;
	}
	if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
		failed(text);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(atoi(port));
	return sizeof *six;
}

static int bound(int type, const char *port)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
	int off = 0, on = 1, sock = socket(AF_INET6, type, 0);
	setsockopt(sock, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(sock, (void *)&any, sizeof any))
		failed("bind");
	return sock;
}

static _Noreturn void echo(const char *port)
{
	int sock = bound(SOCK_DGRAM, port);
	for (;;) {
		struct sockaddr_storage from;
		socklen_t length = sizeof from;
		ssize_t got = recvfrom(sock, buffer, MOST, 0, (void *)&from, &length);
		if (got >= 0)
			sendto(sock, buffer, got, 0, (void *)&from, length);
	}
}

static int ask(const char *address, const char *port, const char *word)
{
	struct sockaddr_storage to;
	socklen_t length = address_of(address, port, &to);
	int sock = socket(to.ss_family, SOCK_DGRAM, 0);
	struct pollfd ready = {.fd = sock, .events = POLLIN};
	ssize_t got;
	if (connect(sock, (void *)&to, length) || send(sock, word, strlen(word), 0) < 0)
		failed("send");
	if (poll(&ready, 1, 2000) <= 0 || (got = recv(sock, buffer, MOST, 0)) < 0)
		return 1;
	printf("%.*s\n", (int)got, buffer);
	return 0;
}

static int raw(const char *interface)
{
	int sock = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	link.sll_ifindex = if_nametoindex(interface);
	if (sock < 0 || !link.sll_ifindex || bind(sock, (void *)&link, sizeof link))
		failed(interface);
	return sock;
}

static size_t bytes_of(const char *hex, unsigned char *out)
{
	size_t length = 0;
	unsigned int byte;
	while (sscanf(hex + 2 * length, "%2x", &byte) == 1)
		out[length++] = byte;
	return length;
}

static int send_frames(int sock, long count, char **frames, double deadline)
{
	static unsigned char bytes[16][MOST];
	size_t lengths[16], kinds = 0;
	long sent = 0;
	for (; frames[kinds] && kinds < 16; kinds++)
		lengths[kinds] = bytes_of(frames[kinds], bytes[kinds]);
	for (long round = 0; deadline ? now() < deadline : round < count; round++)
		for (size_t kind = 0; kind < kinds; kind++)
			if (send(sock, bytes[kind], lengths[kind], 0) == (ssize_t)lengths[kind])
				sent++;
			else if (errno != ENOBUFS && errno != EAGAIN)
				failed("send");
	printf("%ld\n", sent);
	return 0;
}

static int capture(const char *interface, double seconds)
{
	int sock = raw(interface);
	struct packet_mreq all = {.mr_ifindex = if_nametoindex(interface), .mr_type = PACKET_MR_PROMISC};
	double end = now() + seconds;
	setsockopt(sock, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all);
	setvbuf(stdout, NULL, _IOLBF, 4 * MOST);
	puts("ready");
	while (now() < end) {
		struct sockaddr_ll from;
		socklen_t length = sizeof from;
		struct pollfd ready = {.fd = sock, .events = POLLIN};
		if (poll(&ready, 1, 100) <= 0)
			continue;
		ssize_t got = recvfrom(sock, buffer, MOST, 0, (void *)&from, &length);
		if (got < 0 || from.sll_pkttype == PACKET_OUTGOING)
			continue;
		for (ssize_t place = 0; place < got; place++)
			printf("%02x", buffer[place]);
		putchar('\n');
	}
	return 0;
}

static _Noreturn void sink(const char *port)
{
	int sock = bound(SOCK_STREAM, port);
	signal(SIGCHLD, SIG_IGN);
	listen(sock, 1024);
	for (;;) {
		int peer = accept(sock, NULL, NULL);
		if (fork() == 0) {
			unsigned long long total = 0;
			ssize_t got;
			char answer[32];
			close(sock);
			while ((got = read(peer, buffer, MOST)) > 0)
				total += got;
			if (total > 0)
				write(peer, answer, snprintf(answer, sizeof answer, "%llu\n", total));
			_exit(0);
		}
		close(peer);
	}
}

static int dialled(const char *address, const char *port)
{
	struct sockaddr_storage to;
	socklen_t length = address_of(address, port, &to);
	int sock = socket(to.ss_family, SOCK_STREAM, 0);
	struct timeval patience = {.tv_sec = 3};
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	if (connect(sock, (void *)&to, length))
		failed("connect");
	return sock;
}

static int get(const char *address, const char *path)
{
	int sock = dialled(address, "80"), in_body = 0;
	char text[1024];
	FILE *stream = fdopen(sock, "r+");
	fprintf(stream, "GET %s HTTP/1.0\r\n\r\n", path);
	fflush(stream);
	while (fgets(text, sizeof text, stream)) {
		if (in_body)
			fputs(text, stdout);
		in_body |= !strcmp(text, "\r\n");
	}
	return !in_body;
}

static int push(const char *address, const char *port, long long bytes)
{
	int sock = dialled(address, port);
	double began = now();
	char answer[32] = "";
	for (long long left = bytes; left > 0;) {
		ssize_t put = write(sock, buffer, left < MOST ? left : MOST);
		if (put <= 0)
			failed("write");
		left -= put;
	}
	shutdown(sock, SHUT_WR);
	if (read(sock, answer, sizeof answer - 1) <= 0 || atoll(answer) != bytes)
		failed("answer");
	printf("%.6f\n", now() - began);
	return 0;
}

static int dial(const char *address, const char *port, int count)
{
	while (count-- > 0) {
		double began = now();
		int sock = dialled(address, port);
		printf("%.0f\n", (now() - began) * 1e6);
		close(sock);
	}
	return 0;
}

int main(int count, char **words)
{
	const char *what = count > 2 ? words[1] : "";
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(what, "echo"))
		echo(words[2]);
	if (!strcmp(what, "ask") && count == 5)
		return ask(words[2], words[3], words[4]);
	if (!strcmp(what, "send") && count > 4)
		return send_frames(raw(words[2]), atol(words[3]), words + 4, 0);
	if (!strcmp(what, "flood") && count > 4)
		return send_frames(raw(words[2]), 0, words + 4, now() + atof(words[3]));
	if (!strcmp(what, "capture") && count == 4)
		return capture(words[2], atof(words[3]));
	if (!strcmp(what, "sink"))
		sink(words[2]);
	if (!strcmp(what, "get") && count == 4)
		return get(words[2], words[3]);
	if (!strcmp(what, "push") && count == 5)
		return push(words[2], words[3], atoll(words[4]));
	if (!strcmp(what, "connect") && count == 5)
		return dial(words[2], words[3], atoi(words[4]));
	fputs("usage: see the top of probe.c\n", stderr);
	return 2;
}
