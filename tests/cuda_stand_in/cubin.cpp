// What a cubin, an ELF file, tells of its kernels.
#include <elf.h>

#include <cstring>

#include "machine.h"

// Attributes in sections .nv.info.<kernel>: how a value is kept, which one, and its content.
enum { HALF = 3, SIZED = 4 };
enum { MOST_THREADS = 0x05, REQUIRED_BLOCK = 0x10, PARAMETER = 0x17 };

static void read_info(const unsigned char* at, size_t size, Function& f) {
    const unsigned char* end = at + size;
    while (at + 4 <= end) {
        int kept = at[0], which = at[1], half = at[2] | at[3] << 8;
        at += 4;
        if (kept != SIZED) continue;
        uint32_t words[3] = {0, 0, 0};
        memcpy(words, at, half < 12 ? half : 12);
        at += half;
        if (which == PARAMETER)
            f.parameters[words[1] & 0xFFFF] = {(int)(words[1] >> 16), (int)(words[2] >> 18)};
        if (which == REQUIRED_BLOCK)
            for (int i = 0; i < 3; i++) f.required[i] = (int)words[i];
        if (which == MOST_THREADS) f.most_threads = (int)(words[0] * words[1] * words[2]);
    }
}

int read_cubin(const void* image, Module& module) {
    const char* base = (const char*)image;
    if (memcmp(base, ELFMAG, SELFMAG)) return CUDA_ERROR_INVALID_IMAGE;
    auto* head = (const Elf64_Ehdr*)base;
    if ((head->e_flags & 0xFF) != 90 && (head->e_flags >> 8 & 0xFF) != 90)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    auto* sections = (const Elf64_Shdr*)(base + head->e_shoff);
    const char* names = base + sections[head->e_shstrndx].sh_offset;
    for (int i = 0; i < head->e_shnum; i++) {
        std::string name = names + sections[i].sh_name;
        if (name.rfind(".text.", 0) == 0) {
            Function& f = module.functions[name.substr(6)];
            f.name = name.substr(6);
            f.registers = (int)(sections[i].sh_info >> 24);
        }
    }
    for (int i = 0; i < head->e_shnum; i++) {
        std::string name = names + sections[i].sh_name;
        auto part = [&](const char* kind) {
            std::string start = std::string(kind) + ".";
            return name.rfind(start, 0) ? module.functions.end()
                                        : module.functions.find(name.substr(start.size()));
        };
        if (auto f = part(".nv.info"); f != module.functions.end())
            read_info((const unsigned char*)base + sections[i].sh_offset, sections[i].sh_size,
                      f->second);
        if (auto f = part(".nv.shared"); f != module.functions.end())
            f->second.shared = (int)sections[i].sh_size;
    }
    return module.functions.empty() ? CUDA_ERROR_INVALID_IMAGE : 0;
}
