/* tally: counts the lines, words and bytes of files, and the length of the longest line.
 * The reference program of the tests' own task; docs/tally.md describes what it does. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VERSION "1.4.0"

enum status { OK = 0, UNREADABLE = 1, BAD_USE = 2 };

struct counts {
    uint64_t lines, words, bytes, longest;
};

struct columns {
    bool lines, words, bytes, longest;
};

static const char USAGE[] =
    "Usage: tally [OPTION]... [FILE]...\n"
    "Count lines, words and bytes of each FILE, and of all of them together.\n"
    "With no FILE, or when FILE is -, read standard input.\n"
    "\n"
    "  -l, --lines     print the number of newline characters\n"
    "  -w, --words     print the number of words\n"
    "  -c, --bytes     print the number of bytes\n"
    "  -L, --longest   print the length in bytes of the longest line\n"
    "      --help      print this help and exit\n"
    "      --version   print the version and exit\n"
    "\n"
    "With none of -l, -w, -c and -L, the first three are printed.\n";

static bool is_space(unsigned char byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* Adds what can be read from fd; false, with errno set, where reading fails. */
static bool count(int fd, struct counts *counts)
{
    unsigned char buffer[65536];
    bool in_word = false;
    uint64_t length = 0;
    ssize_t size;

    while ((size = read(fd, buffer, sizeof buffer)) > 0) {
        counts->bytes += (uint64_t)size;
        for (ssize_t i = 0; i < size; i++) {
            bool space = is_space(buffer[i]);
            if (!space && !in_word)
                counts->words++;
            in_word = !space;
            if (buffer[i] == '\n') {
                counts->lines++;
                length = 0;
            } else if (++length > counts->longest) {
                counts->longest = length;
            }
        }
    }
    return size == 0;
}

static void print_column(bool wanted, uint64_t number)
{
    if (wanted)
        printf("%8ju", (uintmax_t)number);
}

static void print_row(struct columns columns, struct counts counts, const char *name)
{
    print_column(columns.lines, counts.lines);
    print_column(columns.words, counts.words);
    print_column(columns.bytes, counts.bytes);
    print_column(columns.longest, counts.longest);
    if (name)
        printf(" %s", name);
    putchar('\n');
}

static enum status complain(const char *what, const char *name)
{
    int error = errno;

    fflush(stdout);
    fprintf(stderr, "tally: cannot %s '%s': %s\n", what, name, strerror(error));
    return UNREADABLE;
}

/* Counts and prints one file; adds it to the total. */
static enum status tally(const char *name, const char *shown, struct columns columns, struct counts *total)
{
    struct counts counts = {0};
    enum status status = OK;
    int fd = strcmp(name, "-") == 0 ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return complain("open", name);
    if (!count(fd, &counts))
        status = complain("read", name);
    if (fd != STDIN_FILENO)
        close(fd);
    if (status != OK)
        return status;
    print_row(columns, counts, shown);
    total->lines += counts.lines;
    total->words += counts.words;
    total->bytes += counts.bytes;
    if (counts.longest > total->longest)
        total->longest = counts.longest;
    return OK;
}

/* Sets the column that a short or long option asks for; false where there is none. */
static bool choose(struct columns *columns, char letter, const char *word)
{
    const struct { char letter; const char *word; bool *column; } options[] = {
        {'l', "lines", &columns->lines},
        {'w', "words", &columns->words},
        {'c', "bytes", &columns->bytes},
        {'L', "longest", &columns->longest},
    };

    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (word ? strcmp(word, options[i].word) == 0 : letter == options[i].letter)
            return *options[i].column = true;
    }
    return false;
}

static enum status bad_option(const char *prefix, const char *option, int length)
{
    fprintf(stderr, "tally: unknown option '%s%.*s'\n", prefix, length, option);
    fputs("Try 'tally --help' for more information.\n", stderr);
    return BAD_USE;
}

int main(int argc, char **argv)
{
    struct columns columns = {0};
    struct counts total = {0};
    enum status status = OK;
    int files = 0;
    bool options_ended = false;

    /* Options may stand behind files, so files gather at the front of argv. */
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (options_ended || argument[0] != '-' || argument[1] == '\0') {
            argv[files++] = argv[i];
        } else if (strcmp(argument, "--") == 0) {
            options_ended = true;
        } else if (strcmp(argument, "--help") == 0) {
            fputs(USAGE, stdout);
            return OK;
        } else if (strcmp(argument, "--version") == 0) {
            puts("tally " VERSION);
            return OK;
        } else if (argument[1] == '-') {
            if (!choose(&columns, 0, argument + 2))
                return bad_option("", argument, (int)strlen(argument));
        } else {
            for (const char *letter = argument + 1; *letter; letter++) {
                if (!choose(&columns, *letter, NULL))
                    return bad_option("-", letter, 1);
            }
        }
    }
    if (!columns.lines && !columns.words && !columns.bytes && !columns.longest)
        columns.lines = columns.words = columns.bytes = true;

    if (files == 0)
        return tally("-", NULL, columns, &total);
    for (int i = 0; i < files; i++) {
        enum status one = tally(argv[i], argv[i], columns, &total);
        if (one != OK)
            status = one;
    }
    if (files > 1)
        print_row(columns, total, "total");
    return status;
}
