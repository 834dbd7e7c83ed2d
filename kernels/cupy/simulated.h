// What Python asks of a simulated kernel: the types of its arguments, and to run one thread of it.
#pragma once
#include "simulator.h"

namespace simulator {

template <int... I> struct Sequence {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { using type = Sequence<I...>; };

template <class... P, int... I>
void call(void (*kernel)(P...), void** values, Sequence<I...>) {
    kernel(*static_cast<P*>(values[I])...);
}
template <class... P> void call(void (*kernel)(P...), void** values) {
    call(kernel, values, typename Count<sizeof...(P)>::type());
}

// How Python names the type of an argument; a pointer by what it points to.
template <class P> struct Name;
#define CNNENGINE_NAME(type, text) \
    template <> struct Name<type> { static constexpr const char* of = text; }
CNNENGINE_NAME(int, "int32");
CNNENGINE_NAME(unsigned, "uint32");
CNNENGINE_NAME(long long, "int64");
CNNENGINE_NAME(unsigned long long, "uint64");
CNNENGINE_NAME(float, "float32");
CNNENGINE_NAME(float16, "float16");
CNNENGINE_NAME(bfloat16, "bfloat16");
CNNENGINE_NAME(signed char, "int8");
CNNENGINE_NAME(unsigned char, "uint8");
template <class P> struct Name<const P> : Name<P> {};
template <class P> struct IsPointer { static constexpr const char* star = ""; using of = P; };
template <class P> struct IsPointer<P*> { static constexpr const char* star = "*"; using of = P; };

template <class... P> void signature(void (*)(P...), char* text, size_t room) {
    *text = 0;
    const char* parts[] = {IsPointer<P>::star..., ""};
    const char* names[] = {Name<typename IsPointer<P>::of>::of..., ""};
    for (size_t i = 0, used = 0; i < sizeof...(P) && used < room; ++i)
        used += snprintf(text + used, room - used, "%s%s ", parts[i], names[i]);
}

}  // namespace simulator

#define SIMULATE(...)                                                             \
    extern "C" void signature(char* text, size_t room) {                          \
        simulator::signature(&__VA_ARGS__, text, room);                           \
    }                                                                             \
    extern "C" void thread(void** values) { simulator::call(&__VA_ARGS__, values); }
