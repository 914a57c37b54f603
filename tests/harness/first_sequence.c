/*
 * Prints the initial sequence number of a TCP connection that this machine begins, caught on the loopback interface.
 * The connection is refused, which does not matter.
 */
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(40000)}, peer = own;
	unsigned char packet[1500];
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
	int stream = socket(AF_INET, SOCK_STREAM, 0);
	inet_aton("127.0.0.1", &own.sin_addr);
	inet_aton("127.0.0.1", &peer.sin_addr);
	peer.sin_port = htons(9);
	if (raw < 0 || stream < 0 || bind(stream, (struct sockaddr *)&own, sizeof own) < 0)
		return 1;
	connect(stream, (struct sockaddr *)&peer, sizeof peer);
	for (;;) {
		ssize_t length = recv(raw, packet, sizeof packet, 0);
		struct iphdr *ip = (struct iphdr *)packet;
		struct tcphdr *tcp = (struct tcphdr *)(packet + ip->ihl * 4);
		if (length < 40)
			return 2;
		if (tcp->syn && !tcp->ack) {
			printf("%08x\n", ntohl(tcp->seq));
			return 0;
		}
	}
}
